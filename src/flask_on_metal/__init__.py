"""Flask on Metal: the Python behind the commands in bin/."""
