"""ONNX Runtime: providers that are verified, sessions, model cards and the catalogue. Its only importer."""
