"""What there is: files found, data sets recognised, speakers and splits, what is left out and why."""
