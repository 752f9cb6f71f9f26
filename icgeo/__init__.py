"""In-context few-shot geolocation with pretrained diffusion transformers."""
