"""Published data sets, folders and tables as sources of rows to embed."""
