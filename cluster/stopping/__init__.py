"""From a stop signal to leaving between two steps, within the time that there is."""
