"""Target ``edge-llm``: what the runtime of TensorRT-Edge-LLM takes."""
