"""What a notebook's cell shows: how far a run is, and its results. IPython and pandas are imported only when used."""
