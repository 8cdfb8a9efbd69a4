"""Out of memory, on the device and on the host: the batch stays what it was."""
