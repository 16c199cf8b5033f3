"""Foundation of the stages: Ray, shards and their commits, resources, progress."""
