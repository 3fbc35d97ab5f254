"""Pictures and annotations of others, read as samples."""
