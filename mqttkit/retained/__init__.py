"""List, save, compare, remove and restore the retained messages of a broker."""
