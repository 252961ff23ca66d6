"""Live calls: WebSocket sessions that share each step of the model."""
