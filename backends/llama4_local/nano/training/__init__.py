"""The data nano is trained on, its training and its evaluation; not part of the wheel."""
