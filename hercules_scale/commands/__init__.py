"""The commands of ``hercules-scale``."""
