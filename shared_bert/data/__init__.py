"""Text in, arrays out; knows nothing of the model or of training."""
