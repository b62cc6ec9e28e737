"""Films that follow audio."""
