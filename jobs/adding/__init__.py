"""The Adding Problem: networks x lengths x seeds as one array, and what comes of each."""
