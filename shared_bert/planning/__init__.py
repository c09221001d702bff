"""What a run will need, worked out before there is a device to run it on."""
