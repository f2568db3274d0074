//! The resources of networking.datumapis.com/v1alpha1, and nothing else of ours.
