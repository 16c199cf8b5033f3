"""The ground that stages run on: Ray, shards and their commits, resources, progress."""
