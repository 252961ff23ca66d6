"""What takes part in Lightning's loop: the module and its callbacks."""
