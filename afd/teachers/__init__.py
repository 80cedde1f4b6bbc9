"""Teachers: prompt in, finished video out. One file per kind."""
