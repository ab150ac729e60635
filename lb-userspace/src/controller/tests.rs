//! Of the controller as a whole, without a kernel.
