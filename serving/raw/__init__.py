"""Raw inputs: pictures, texts and rows of tables, as clients send them, become what the engine takes; its outputs an answer."""
