"""A probe for each thing that the doctor tells."""
