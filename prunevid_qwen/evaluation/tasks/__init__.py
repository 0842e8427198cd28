"""What engines are asked to answer: benchmarks under a protocol, a user's questions, pictures with free answers."""
