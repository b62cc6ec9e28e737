"""The app in the browser: pages, queue, uploads. It does not know how pipelines are loaded."""
