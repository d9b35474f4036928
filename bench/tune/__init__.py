"""`stateserve tune`: which engine should run here, how many calls at a time, with how many threads and rows."""
