"""Live calls: over WebSocket; they share each step of the model."""
