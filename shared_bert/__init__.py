"""BERT with shared-weight self-attention, in JAX and Flax."""

__version__ = '0.1.0'
