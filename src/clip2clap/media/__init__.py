"""Reading and writing of images, audio and video."""
