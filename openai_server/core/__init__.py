"""Types that all parts of the sidecar share, independent of the API and of the backend's dialect. PURE."""
