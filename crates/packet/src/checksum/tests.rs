use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::reference::{V4_A, V4_B, V6_A, V6_B, naive_sum};

#[test]
fn the_example_of_rfc_1071_section_3() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
    assert_eq!(checksum(&bytes), 0x220d);
}

#[test]
fn the_example_of_rfc_1624_section_4() {
    // The one that equation 4 of RFC 1141 gets wrong.
    assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn the_largest_sums_fold() {
    let ones = vec![0xff; 65_575];
    assert_eq!(Sum::of(&ones).fold(), naive_sum(&ones));
    let most = Sum(u64::MAX);
    assert_eq!(most.fold(), 0xffff);
    assert_eq!((most + most).fold(), 0xffff);
}

#[test]
fn a_pseudo_header_is_the_sum_of_its_bytes() {
    let v4 = [10, 1, 2, 3, 192, 0, 2, 77, 0, 17, 0x12, 0x34];
    assert_eq!(pseudo_header(V4_A, V4_B, 17, 0x1234).fold(), naive_sum(&v4));
    let mut v6 = Vec::new();
    for address in [V6_A, V6_B] {
        if let IpAddr::V6(address) = address {
            v6.extend(address.octets());
        }
    }
    v6.extend([0, 1, 0x23, 0x45, 0, 0, 0, 6]);
    assert_eq!(
        pseudo_header(V6_A, V6_B, 6, 0x1_2345).fold(),
        naive_sum(&v6)
    );
}

proptest! {
    #[test]
    fn a_sum_is_the_naive_sum(bytes in vec(any::<u8>(), 0..300), skip in 0..16usize) {
        let bytes = &bytes[skip.min(bytes.len())..];
        prop_assert_eq!(Sum::of(bytes).fold(), naive_sum(bytes));
        let mut out = vec![0xaa; bytes.len() + 3];
        prop_assert_eq!(copy_and_sum(&mut out, bytes).fold(), naive_sum(bytes));
        prop_assert_eq!(&out[..bytes.len()], bytes);
        prop_assert_eq!(&out[bytes.len()..], &[0xaa; 3]);
    }

    #[test]
    fn sums_of_even_parts_add_up(bytes in vec(any::<u8>(), 0..300), cut in 0..150usize) {
        let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
        prop_assert_eq!((Sum::of(head) + Sum::of(tail)).fold(), naive_sum(&bytes));
    }

    #[test]
    fn fields_sum_as_their_bytes(word: u16, long: u32) {
        prop_assert_eq!(Sum::word(word).fold(), naive_sum(&word.to_be_bytes()));
        prop_assert_eq!(Sum::long(long).fold(), naive_sum(&long.to_be_bytes()));
    }

    #[test]
    fn an_update_is_as_good_as_a_new_sum(
        mut bytes in vec(any::<u8>(), 4..64), at in 0..32usize, new: u16,
    ) {
        // The checksum is the first word, so that the whole sums to all ones.
        bytes[..2].fill(0);
        let old_checksum = checksum(&bytes);
        bytes[..2].copy_from_slice(&old_checksum.to_be_bytes());
        let at = 2 + at * 2 % ((bytes.len() - 2) & !1);
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
        let updated = update(old_checksum, old, new);
        bytes[..2].copy_from_slice(&updated.to_be_bytes());
        prop_assert_eq!(naive_sum(&bytes), 0xffff);
        prop_assert!(Sum::of(&bytes).is_valid());
    }
}
