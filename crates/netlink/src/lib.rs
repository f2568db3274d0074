//! Observe, diff and apply of links, addresses, routes, rules and seg6 over rtnetlink.
