"""Networks that decode CLIP image embeddings to images."""
