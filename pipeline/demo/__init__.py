"""A web page on which photographs are completed."""
