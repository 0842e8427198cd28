"""Inputs of Qwen-VL models, without torchvision: frames and pixels, and the text around them."""
