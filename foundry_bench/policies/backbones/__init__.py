"""Pretrained backbones from Hugging Face: vision-language models, and language models with our encoders."""
