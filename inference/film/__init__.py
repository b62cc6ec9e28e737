"""Films of images that follow audio."""
