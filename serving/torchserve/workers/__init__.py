"""TorchServe's own worker, as child processes: asked, watched, started again."""
