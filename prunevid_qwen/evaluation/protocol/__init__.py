"""What a benchmark's number depends on beside the model, each choice by name; no model, no decoder, no video."""
