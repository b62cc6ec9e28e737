"""Small random networks with the pretrained ones' interfaces."""

import torch
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel


def random_efficientnet(size: int = 224) -> tuple[EfficientNetModel, nn.Linear]:
    """Build a shallow EfficientNet with 1,280 features, as EfficientNet-Lite0 has."""
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=size, width_coefficient=1.0, depth_coefficient=0.1, hidden_dim=1280
    )
    config.hidden_size = 1280
    network = EfficientNetModel(config).train()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            layer.momentum = 1.0
    # Sets the batch statistics, so that features differ between images.
    with torch.no_grad():
        network(torch.randn(4, 3, size, size))
    return network.eval(), nn.Linear(1280, 1000).eval()
