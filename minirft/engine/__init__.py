"""The engine: how a vision-language model is loaded, fitted to one card and run once for a whole group."""
