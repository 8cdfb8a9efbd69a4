"""The job's nine variants, five seeds and three splits as one array under faults."""
