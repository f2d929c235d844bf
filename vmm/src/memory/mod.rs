//! Guest RAM over the map.
