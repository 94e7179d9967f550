"""The store: responses, conversations and background runs that outlive a request and the process that answered it."""
