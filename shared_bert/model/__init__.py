"""The encoder and its heads; knows nothing of data or training."""
