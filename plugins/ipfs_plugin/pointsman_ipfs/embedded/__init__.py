"""The embedded store: a folder of CAR files and an index."""
