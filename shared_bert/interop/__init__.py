"""Models of others in, and ours out: Hugging Face's BERT."""
