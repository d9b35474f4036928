"""`make gpu`: everything for CUDA exported, proven and measured by one script, on a machine that has a GPU."""
