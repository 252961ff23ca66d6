"""Starting, replacing and stopping the endpoint on Ray Serve."""
