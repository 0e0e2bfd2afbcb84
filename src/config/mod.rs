//! Text to `Spec`: what the user wrote, with the place of every field. Resolves nothing.
