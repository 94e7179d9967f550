"""A backend's own tensor names and manners: one folder a dialect."""
