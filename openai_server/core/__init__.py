"""What every part of the sidecar knows, whatever the API and the backend's dialect. PURE."""
