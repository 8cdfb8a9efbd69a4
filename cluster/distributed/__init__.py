"""Members of several ranks: one process a GPU or node, which live, save and leave as one."""
